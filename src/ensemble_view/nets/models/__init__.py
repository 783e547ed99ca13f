"""The reference nets for small images: residual and highway nets, the plain net and VGG."""
