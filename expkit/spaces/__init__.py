"""What environments of other libraries see, do and allow, as fields and rows.
Imports row, system and errors; the libraries themselves where they are used."""
