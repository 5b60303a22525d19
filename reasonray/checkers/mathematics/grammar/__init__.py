"""The grammar of answers: a module for each kind of notation, with functions from `recursion.Rules` to a tree.

The modules import each other downwards only; what they need from above they call through the rules, which
`mathematics.parser` implements.
"""
