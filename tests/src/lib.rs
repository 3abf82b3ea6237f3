//! Tests of the whole: cases, laws, processes, command line
