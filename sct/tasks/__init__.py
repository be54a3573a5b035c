"""What the commands do once their config proved good: one file a command."""
