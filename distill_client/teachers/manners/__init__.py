"""How a teacher is asked under load: how many requests at once, how long, and when again."""
