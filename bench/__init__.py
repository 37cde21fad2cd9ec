"""One evaluation for visual grounding: a picture and a referring expression in, one box out."""
