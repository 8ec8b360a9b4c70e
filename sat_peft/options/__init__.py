"""What the training recipes can be asked for, and named settings; nothing heavy is imported here."""
