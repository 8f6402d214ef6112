"""What teacher and client may both know: the wire, public network architectures and data-set readers."""
