"""What seeds can say: intervals, paired differences, curves, profiles."""
