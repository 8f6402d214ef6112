"""What was paid for: batches recorded before they are sent, answers kept before they are used."""
