"""How a strategy trains: one module a recipe."""
