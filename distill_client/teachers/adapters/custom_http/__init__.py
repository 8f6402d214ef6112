"""A teacher described wholly in TOML: what is sent, where the reply says what, what refusals mean."""
