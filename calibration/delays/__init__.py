"""How long storage and blocks take on this device."""
