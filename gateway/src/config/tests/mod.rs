mod bad;
mod balance;
mod certificates;
mod files;
mod filters;
mod good;
mod numbers;
mod robust;
