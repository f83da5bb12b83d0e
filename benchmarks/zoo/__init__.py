"""Real models with a task each: where they come from, what they are fed, how they are scored."""
