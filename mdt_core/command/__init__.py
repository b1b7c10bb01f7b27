"""What every command of this project shares: its arguments, the files that they name, a model in words."""
