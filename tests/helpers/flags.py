"""Options of a recipe as its command line takes them."""


def as_flags(options: dict) -> list[str]:
    """`{"steps": 4, "shots": (1, 2), "compile": True, "train_head": False}` as flags with their values."""
    texts = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            texts.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            texts += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return texts
