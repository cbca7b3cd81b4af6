"""Documents -> documents, before they become tokens. A new one is a schema class, a file here, and a row in `table.py`.

table               the manifest's word -> a transform, and what a transform is
pipeline            documents through all transforms of a recipe, counted
examples            what one did to a document, fit to be shown
blocks              what transforms that change text have in common; judges: filters
personal_data       what is found as personal data

normalize_unicode   one form for characters that can be written in several ways
fix_mojibake        text that was decoded in the wrong encoding
remove_control_characters   what nobody sees
normalize_whitespace        line ends, blanks and blank lines
remove_markup       HTML -> text
correct_spelling    words that a dictionary lacks
mask_personal_data  addresses and numbers of people
filter_quality      drops what is no running text
filter_language     drops other languages
remove_duplicates   drops what is there already, or nearly so
"""
