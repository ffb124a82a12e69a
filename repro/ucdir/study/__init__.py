"""Notebook 04's study: experiments, tables and claims as data, what is measured, figures and widgets."""
