"""What people see: progress while a run lasts, a table and a picture at its end."""
