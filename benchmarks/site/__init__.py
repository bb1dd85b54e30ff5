"""The pages of docs/ as a site: what is made from the grammar, the readers, the codes and the examples."""
