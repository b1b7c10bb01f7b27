"""What makes a model faster: number formats, CUDA graphs, compiled blocks, and conditioning computed once."""
