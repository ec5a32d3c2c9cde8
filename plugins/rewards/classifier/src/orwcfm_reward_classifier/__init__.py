"""Class-probability reward for orwcfm, with small classifiers of Fashion-MNIST and MNIST."""
