"""What `expkit.Recorder` is made of: the book of its episodes, and one module for each form in which it takes rows.
Imports collect and all that stands below."""
