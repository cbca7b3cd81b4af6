"""Records: lines or rows with named fields. A new format is a word of the schema, a file here, and a row in `table.py`.

table          the manifest's word -> a reader, and what a reader is
lines          JSON Lines, CSV and TSV: files of lines
columns        Parquet and Arrow: files of columns
fields         a record -> its text and its label
reading        all records of a source, and what becomes of bad ones
"""
