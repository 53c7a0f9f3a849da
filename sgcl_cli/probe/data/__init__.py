"""Cohorts of labelled features, their division into folds, and the audit of both."""
