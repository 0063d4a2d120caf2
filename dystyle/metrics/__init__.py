"""What training and evaluation share: figures, judges, drawn codes and edits, degraded pictures."""
