"""Loads the machine code in the process that workers are forked from, once for all of them."""

from model.compiling import compile_all

compile_all()
