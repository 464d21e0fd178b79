"""What a pretrained model is worth: tasks it is measured on."""
