"""Teacher bundles and the classifiers made from them; the only torch at serving time."""
