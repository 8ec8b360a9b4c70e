"""What all tests share."""

import os

# Before any import of the hub's client, which reads it once: a test that asks the hub fails at once, net or not.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
