"""What expkit asks of the machine, of Python and of other libraries: files, threads, units, logs, extras, plug-ins.
Imports errors alone."""
