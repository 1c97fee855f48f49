//! The one matrix product, behind one small interface; the only `unsafe` of the enclave.
