"""The classes of the emoji set: names that a person would pick, over Unicode's subgroups.

A row lists what a class holds: subgroups (with a star), of which it takes everything, and single concepts by their
short name. A concept that is named itself belongs where it is named, whatever its subgroup: that splits what Unicode
mixes (faces and whole animals, moons and clouds, clothes and shoes). Subgroups in no row are left out: flags, keycaps,
signs and other symbols teach a model of drawings nothing.
"""

CLASSES = {
    # faces
    "happy face": "*face-smiling, *face-affection, hugging_face, face_with_hand_over_mouth",
    "playful face": "*face-tongue, *face-hat, *face-glasses",
    "doubtful face": "*face-neutral-skeptical, *face-hand",
    "tired or sick face": "*face-sleepy, *face-unwell, yawning_face, tired_face, weary",
    "sad or scared face": "*face-concerned",
    "angry face": "*face-negative",
    "monster": "*face-costume, smiling_imp, imp, skull, skull_and_crossbones, jack_o_lantern",
    "cat face": "*cat-face, cat",
    # people
    "heart": "*heart",
    "hand": "*hand-fingers-open, *hand-fingers-partial, *hand-single-finger, *hand-fingers-closed, *hands, *hand-prop",
    "body part": "*body-parts, kiss",
    "person": "*person",
    "person making a gesture": "*person-gesture",
    "worker": "*person-role",
    "person dressed up": "person_with_crown, prince, princess, person_in_tuxedo, man_in_tuxedo, woman_in_tuxedo,"
    "bride_with_veil, man_with_veil, woman_with_veil, man_with_turban, man-wearing-turban, woman-wearing-turban,"
    "man_with_gua_pi_mao, person_with_headscarf",
    "fairy-tale figure": "*person-fantasy",
    "athlete": "*person-sport",
    "person doing something": "*person-activity, *person-resting",
    # Whole families are left out: half of the teams draw pictograms, many of them the same one for all.
    "couple or parent": "people_holding_hands, two_women_holding_hands, man_and_woman_holding_hands,"
    "two_men_holding_hands, couplekiss, woman-kiss-man, man-kiss-man, woman-kiss-woman, couple_with_heart,"
    "woman-heart-man, man-heart-man, woman-heart-woman, pregnant_woman, pregnant_man, pregnant_person, breast-feeding,"
    "woman_feeding_baby, man_feeding_baby, person_feeding_baby",
    # nature
    "animal face": "*monkey-face, monkey_face, dog, wolf, fox_face, raccoon, lion_face, tiger, horse, moose, donkey,"
    "unicorn_face, zebra_face, cow, pig, mouse, hamster, rabbit, bear, polar_bear, koala, panda_face, frog,"
    "dragon_face",
    "mammal": "*animal-mammal",
    "bird": "*animal-bird",
    "reptile": "*animal-reptile",
    "sea animal": "*animal-marine",
    "insect or bug": "*animal-bug",
    "flower": "*plant-flower",
    "plant or tree": "*plant-other, christmas_tree, tanabata_tree, bamboo, chestnut",
    # food
    "fruit": "*food-fruit",
    "vegetable": "*food-vegetable",
    "bread or sandwich": "bread, croissant, baguette_bread, flatbread, pretzel, bagel, pancakes, waffle, hamburger,"
    "pizza, hotdog, sandwich, taco, burrito, stuffed_flatbread, tamale",
    "dish": "*food-prepared, *food-asian",
    "dessert": "*food-sweet",
    "drink": "*drink",
    # places and travel
    "landscape": "*place-geographic, foggy, night_with_stars, cityscape, sunrise_over_mountains, sunrise, city_sunset,"
    "city_sunrise, bridge_at_night, milky_way, stars, fireworks, sparkler, rice_scene, ocean, national_park",
    "building": "*place-building, *place-religious, *place-other, moyai",
    "train": "steam_locomotive, railway_car, bullettrain_side, bullettrain_front, train2, metro, light_rail,"
    "tram, monorail, mountain_railway, train, suspension_railway, mountain_cableway, aerial_tramway",
    "car or truck": "bus, oncoming_bus, trolleybus, minibus, ambulance, fire_engine, police_car, oncoming_police_car,"
    "taxi, oncoming_taxi, car, oncoming_automobile, blue_car, pickup_truck, truck, articulated_lorry, tractor,"
    "racing_car, auto_rickshaw",
    "bike or wheels": "racing_motorcycle, motor_scooter, manual_wheelchair, motorized_wheelchair, bike, scooter,"
    "skateboard, roller_skate, shopping_trolley",
    "boat": "*transport-water",
    "aircraft": "*transport-air",
    "clock": "*time",
    "moon, sun or star": "new_moon, waxing_crescent_moon, first_quarter_moon, moon, full_moon, waning_gibbous_moon,"
    "last_quarter_moon, waning_crescent_moon, crescent_moon, new_moon_with_face, first_quarter_moon_with_face,"
    "last_quarter_moon_with_face, full_moon_with_face, sunny, sun_with_face, star, star2, ringed_planet, comet,"
    "earth_africa, earth_americas, earth_asia",
    "weather": "*sky & weather",
    # things
    "party": "*event, pinata, mirror_ball",
    "medal or trophy": "*award-medal, reminder_ribbon, rosette, trident",
    "sports gear": "*sport",
    "game or toy": "*game, *arts & crafts, carousel_horse, playground_slide, ferris_wheel, roller_coaster",
    "clothes": "*clothing",
    "shoe": "thong_sandal, mans_shoe, athletic_shoe, hiking_boot, womans_flat_shoe, high_heel, sandal, ballet_shoes,"
    "boot, ice_skate",
    "hat or accessory": "crown, womans_hat, tophat, mortar_board, billed_cap, military_helmet, helmet_with_white_cross,"
    "eyeglasses, dark_sunglasses, goggles, folding_hand_fan, hair_pick, prayer_beads, lipstick, ring, gem",
    "bag": "purse, handbag, pouch, shopping_bags, school_satchel, briefcase, luggage, basket",
    "music": "*sound, *music, *musical-instrument",
    "electronics": "*phone, *computer, *light & video",
    "book or paper": "*book-paper",
    "mail": "*mail, love_letter",
    "money": "*money",
    "office supply": "*writing, *office",
    "tool or weapon": "*tool, *lock, gun, plunger, razor, broom, bucket, toothbrush, fire_extinguisher",
    "laboratory or medicine": "*science, *medical",
    "household": "*household, *dishware, candle, bulb, flashlight, izakaya_lantern, diya_lamp",
}

# Letters, written numbers and signs, which the subgroups above hold; and what fits no class.
LEFT_OUT = (
    "e-mail, hotel, love_hotel, hospital, bank, convenience_store, post_office, european_post_office, newspaper,"
    "rolled_up_newspaper, date, calendar, spiral_calendar_pad, black_joker, mahjong, spades, hearts, diamonds, clubs,"
    "white_flower, heart_decoration, chart, fax, vhs, dvd, minidisc, no_bell, mute, feet, pig_nose, feather, wing,"
    "spider_web, microbe, seat, station, bricks, rock, wood, hotsprings, barber, elevator, bellhop_bell"
)

_BY_WORD = {word.strip(): name for name, words in [*CLASSES.items(), (None, LEFT_OUT)] for word in words.split(",")}


def class_of(short_name: str, subgroup: str) -> str | None:
    """The class of a concept, or None where it is left out."""
    return _BY_WORD.get(short_name, _BY_WORD.get(f"*{subgroup}"))
