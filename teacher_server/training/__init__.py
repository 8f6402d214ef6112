"""The owner's offline tools: train a teacher bundle, write its answers on a test set. The app never imports this."""
