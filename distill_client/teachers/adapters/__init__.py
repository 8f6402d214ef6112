"""Other people's teachers: an adapter makes a request of images and reads the reply; it sends nothing itself."""
