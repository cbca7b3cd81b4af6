"""Requests to the API server: plain JSON in and out.

api           the verbs and paths this operator uses
connection    where the server is, and as whom it is talked to
paging        how many objects a list asks for at a time
"""
