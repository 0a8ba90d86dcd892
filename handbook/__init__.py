"""The programs that make the documentation: pages from the code (`python -m handbook`), and the site from the pages."""
