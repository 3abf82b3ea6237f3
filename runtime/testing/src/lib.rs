//! For tests only: the naive oracle, the case runner, memory ports
