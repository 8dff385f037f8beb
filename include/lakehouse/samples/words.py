"""Words that names and texts are made of."""

from __future__ import annotations

COLOURS = ("RED", "BLUE", "IVORY", "PINK", "GREEN", "SILVER", "GOLD", "VINTAGE", "RETRO", "WOODEN", "GLASS", "PAPER")
MOTIFS = ("SPOTTY", "HEART", "STAR", "DOVE", "ROSE", "STRIPE", "CHECK", "PAISLEY", "FOREST", "GARDEN", "LACE", "DAISY")
THINGS = (
    *("LANTERN", "MUG", "TEAPOT", "CUSHION", "DOORMAT", "CANDLE HOLDER", "GIFT BAG", "NAPKINS", "CLOCK", "PHOTO FRAME"),
    *(
        "CAKE STAND",
        "LUNCH BOX",
        "HOT WATER BOTTLE",
        "JEWELLERY BOX",
        "WIND CHIME",
        "NOTEBOOK",
        "TEA TOWEL",
        "COASTERS",
    ),
)
ODD_TEXTS = (
    'SIGN "CAFÉ DE PARIS", LARGE',
    "TÊTE-À-TÊTE TEA SET",
    "ŁÓDŹ LANTERN № 5",
    "雪 PAPER LANTERN",
    "PARTY POPPERS 🎉, PACK OF 12",
    "SET OF 3\nNESTING BOXES",
    "12\" RULER 'OLD SCHOOL'",
)
CATEGORIES = ("Home", "Kitchen", "Garden", "Party", "Stationery", "Lighting", "Gifts", "Toys")
SUPPLIERS = ("Albion Goods", "Brücke & Söhne", "Casa Azul", "Delft Ltd", "Eastgate", "Fjord Trading", "Çelik A.Ş.")
WAREHOUSE_NOTES = ("damaged", "check", "?", "lost", "found", "thrown away", "wrongly coded, see 21", "")

COUNTRIES = ("France", "Germany", "EIRE", "Spain", "Netherlands", "Belgium", "Switzerland", "Portugal", "Australia")
GIVEN_NAMES = ("Ada", "Zoë", "José", "Łukasz", "Søren", "Amélie", "Jürgen", "Siobhán", "Мария", "美咲", "Noor", "Tom")
FAMILY_NAMES = ("Smith", "O'Neill", "Müller", "Fernández", "Nguyễn", "Åkesson", "Đorđević", "Brown", "Иванова", "佐藤")
STREETS = ("High Street", "Rue de l'Église", "Hauptstraße", "Calle Mayor", "Mill Lane", "Station Road", "Kirkegata")
CITIES = ("London", "Leeds", "Kraków", "München", "Málaga", "Cork", "Orléans", "Bristol", "Łódź", "Århus")
SEGMENTS = ("consumer", "small business", "wholesale", "vip")
