//! Nothing but the benches in `benches/`: a package needs a target of this kind.
