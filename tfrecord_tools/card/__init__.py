"""The report card of a dataset, card.html."""
