"""The door: the only room that knows typer and rich."""
