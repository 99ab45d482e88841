mod bad;
mod balance;
mod certificates;
mod files;
mod good;
mod numbers;
mod robust;
