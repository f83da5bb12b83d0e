"""Other tools side by side with this one: same models, same inputs, same judge."""
