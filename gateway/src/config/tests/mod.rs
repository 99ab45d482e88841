mod bad;
mod certificates;
mod files;
mod good;
mod numbers;
mod robust;
