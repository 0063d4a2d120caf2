"""C++ and CUDA sources of the StyleGAN2 ops, and their build. The ops themselves: `dystyle.ops`."""
