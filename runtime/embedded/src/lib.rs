//! The embedded defaults: a durable log and an online store on fjall
