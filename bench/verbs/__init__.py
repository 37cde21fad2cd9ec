"""The library side of the verbs that evaluate nothing: predict (single), train (training), doctor (checkup)."""
