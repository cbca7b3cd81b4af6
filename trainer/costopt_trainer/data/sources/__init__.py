"""Where data comes from. A new source is a schema class, a file here, and a row in `table.py`.

table               the manifest's word -> a source, and what a source is
text_files          text: a file, or the files of a folder that match
standard_library    text: the files of Python's own library
labelled_text       documents with a label each, in JSON Lines
image_file          labelled images from one .npz file
table_file          labelled rows from one .npz file
npz_file            what both have in common
"""
