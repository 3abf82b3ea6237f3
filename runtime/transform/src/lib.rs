//! Host of transforms: loads, checks, compiles and calls WebAssembly components
