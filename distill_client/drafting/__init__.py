"""A new experiment's file, drafted from a teacher's card and the images at hand; whoever runs it edits the rest."""

from distill_client.drafting.looking import Wishes, draft

__all__ = ["Wishes", "draft"]
