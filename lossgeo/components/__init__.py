"""Components: a name in a recipe becomes a frozen value; its file is its registration."""
