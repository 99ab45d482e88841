mod bad;
mod certificates;
mod files;
mod good;
mod robust;
