"""The student: its network, how it is trained on bought answers, and how it is measured."""
